"""Which scheme of TeRA a budget is best spent on: candidates, rules, short runs, a table."""
