"""A storage format at work on the words of a tensor, both ways."""
