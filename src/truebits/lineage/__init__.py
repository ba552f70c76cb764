"""Where did it come from?"""
