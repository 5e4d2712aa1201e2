"""The network of the paper, equal to the official one stage by stage."""
