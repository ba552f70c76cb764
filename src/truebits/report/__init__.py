"""What the commands print: tables, JSON documents, progress."""
