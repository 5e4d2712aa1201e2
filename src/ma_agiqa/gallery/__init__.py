"""Scores as pictures: an explained image, a gallery to browse, files sorted by score."""
