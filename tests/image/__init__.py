"""The image: built without a registry of images, and run as a container runtime runs it."""
