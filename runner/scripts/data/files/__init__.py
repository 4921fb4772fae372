"""Files of rows: what lies in them, row by row, whatever they are packed in."""
