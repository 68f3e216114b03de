"""Packages as a third party would have them, installed by being on the path, and studies that name what they hold."""
