"""Medical images: data, networks, attacks on what an image is, and defenses that look at pixels."""
