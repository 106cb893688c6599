"""`krona sweep`: search the best adapter for a subject."""

from tune.config.sweep import SweepConfig


def sweep(config: SweepConfig) -> None:
    """Search Kronecker factors, learning rate, targets and init for a subject.

    Trials run on Ray and are recorded in MLflow; Ctrl-C keeps what was done, --resume goes on.
    """
    from tune.names import check_answers
    from tune.trials.checks import check_experiment, check_folder

    check_folder(config.storage, "--storage")
    check_answers(config.tracking())
    if not config.resume:  # it goes on with what it was started with
        check_experiment(config.experiment)

    from tune.records.table import table_console
    from tune.sweep.run import print_summary, run_sweep

    console = table_console()
    result = run_sweep(config, console)
    print_summary(result, console)
    if not result.is_complete:
        raise KeyboardInterrupt
