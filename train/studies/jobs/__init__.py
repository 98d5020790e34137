"""How a study is run: one method on one task at a time, by this process or one for each GPU."""
