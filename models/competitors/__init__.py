"""The competitors of the compression tables, small and honest.

`deep_compression`, `network_surgery`, `group_lasso` and `generalised_dropout` are a file each, with a function of the
same name, `method(net, training, validation, settings)`, that returns an `outcome.Outcome`; `rows` has the tables and
`stored` the file format. `python -m models.competitors --help` runs them.
"""
