"""Models on disk and from elsewhere: storing, opening, checking and trying them."""
