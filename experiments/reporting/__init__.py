"""What a run leaves for people: results, tables, pictures, the report."""
