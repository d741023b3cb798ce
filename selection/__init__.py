"""From recorded factors to picks; knows no data source."""
