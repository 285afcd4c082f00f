"""The report of a run: its contents as plain data, the HTML page, tables and charts."""
