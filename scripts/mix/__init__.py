"""Makes the pools that selection is studied on."""
