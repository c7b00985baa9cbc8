"""The paper's tables and figures as plans of runs, trained once, measured, and written out."""
