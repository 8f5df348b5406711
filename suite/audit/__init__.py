"""An audit: its plan, the layout of its cells, and carrying them out."""
