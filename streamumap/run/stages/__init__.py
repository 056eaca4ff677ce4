"""The stages of a run, one file each: what is read from where, done in the blocks of the plan, kept under which name.

A stage is a function that takes the `run.Run`, which they share. The work itself is done by `backends`, `graph`, `layout`
and the other rooms, which know nothing of a run.
"""
