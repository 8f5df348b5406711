"""Image data: folders, archives, volumes, named sets, the phantom."""
