"""What a study has come to: summaries, the report, and the Pareto front."""
