"""The sections of the report: each turns rows into tables and figures."""
