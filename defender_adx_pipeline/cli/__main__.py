"""`python -m defender_adx_pipeline.cli`."""

from defender_adx_pipeline.cli import app

app(prog_name="defender-adx")
