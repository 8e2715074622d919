"""The Hugging Face hub, through its own client: the only room that knows it.

names       what things are called there
downloads   files of models come from there
repository  a data set there, which files go to, commit by commit
answers     what its refusals mean for who sends
"""
