"""Networks for images, and augmentation."""
