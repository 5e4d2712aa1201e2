"""Scenes drawn from formulas alone: no photograph, font, texture or model goes in.

Each scene is a function `render(size) -> (size, size, 3)` float64 of linear light, where 1 is
white before tone mapping; `render_samples.py` turns that into a picture. Everything random is
seeded, so a scene is the same on every run.
"""
