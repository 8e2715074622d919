"""Tables in, tables out, for any engine or a plain loop.

read, open                what every stage begins with
encode, decode, evaluate  one file a stage: its rows, its step for the codec, its product
step, work                the seams: what a stage's codec does, and all that there is to do
attempts, quarantine      what fails is tried again, then taken apart
columns, samples, tars    tables to arrays, samples to tables, rows to tars
audit                     what is looked at twice on the way
"""
