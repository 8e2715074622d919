"""All that wants a GPU, in calls of less than ten minutes, for a machine that has little else.

    python -m tests.benchmarks.gpu carry                    here: wheels that such a machine lacks
    python -m tests.benchmarks.gpu --call 1 --out figures   there: tests, ceilings, layers, a model
    python -m tests.benchmarks.gpu --call 2 --out figures   there: every model, beside diffusers
    python -m tests.benchmarks.gpu --call 3 --out figures   there: the whole pipeline, on Ray

The machine has torch with CUDA, pytest and what data science has, but neither our environment nor a
network: the repository is copied there, with `build/carried` in it. Each step is a process with a
time limit, in order of worth; one that fails shows its last lines, and the next goes on. A line of
JSON is written for every figure as it comes, and a table at the end has the predictions of
RESULTS.md beside them. With less time than that, `--budget-s` has what is worth least left out.
`--device cpu --tiny` runs the same code on any machine, which says nothing of speed.
"""
