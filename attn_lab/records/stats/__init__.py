"""What the samples of several records allow to be claimed: intervals, verdicts, noise floors, fits."""
