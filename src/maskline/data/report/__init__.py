"""What a data set looks like: a page, a chart, pictures with their masks."""
