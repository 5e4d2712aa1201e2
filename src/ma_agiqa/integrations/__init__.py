"""The score where people already work: metrics, rewards, pipelines. None is a base dependency."""
