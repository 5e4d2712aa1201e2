"""Experts: each looks at an image and returns evidence about its quality."""
