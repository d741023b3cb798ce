"""How the picks are chosen: one name, one method."""
