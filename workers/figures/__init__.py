"""Figures drawn from recorded figures, without torch: of one job, of several side by side, and of a search.

Typed rows in, `matplotlib.figure.Figure` out, bytes or files at the end; nothing here reads a store, database or file.

    workers.figures.rows         ComparedRow(name, model, method, is_control, is_dense, ratio, strength, samples,
                                     corpus, parameters, perplexity, accuracy, tokens_per_second, prompt_seconds)
                                 Accuracy(value, standard_error)                       imports no matplotlib
    workers.figures.comparison   comparison_figures(rows: Sequence[ComparedRow]) -> dict[str, Figure]
    workers.figures.job          job_figures(records: JobRecords) -> dict[str, Figure]
    workers.figures.search       search_figures(search, rows: Sequence[TrialRow], only=None) -> dict[str, Figure]
                                 write_search_figures(search, rows, folder: Path) -> list[Path]
    workers.figures.rendering    rendered(figure: Figure, form: Literal["svg", "png"]) -> bytes
                                 saved(figures: Mapping[str, Figure], folder: Path) -> list[Path]

`comparison_figures` draws what the rows can tell, and leaves out what they cannot; its keys are file names without
their endings, such as `perplexity_by_parameters_wikitext2`. Failed rows, which have no
figures, may stand among the others.
"""
