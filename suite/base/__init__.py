"""What everything stands on, and what knows no model: errors, files, bounds, limits, progress, registered names."""
