"""Are these two the same?"""
