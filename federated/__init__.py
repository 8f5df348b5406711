"""A federation of hospitals: hostile ones among them, and the rules by which a server puts their updates together."""
