"""Says what a run was taught."""
