"""What an explanation gives: numbers, files, tables, views."""
