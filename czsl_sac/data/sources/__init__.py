"""Reading what a data set says of its images: standard layout, table, or folders by name."""
