"""The scorer over HTTP: a service with a page, and the reward contracts of RL trainers."""
