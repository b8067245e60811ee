"""Evaluation: what CCA keeps of dense attention's quality, task by task.

tasks = [make_task("multidoc", TaskOptions(tokenizer=model.tokenizer, data=folder))]
methods = make_methods(model, ["focus", "core", "full"])
with Record(path, settings=task_settings(tasks[0]), provenance={}) as record:
    print(run_task(tasks[0], methods, record).table)

Nothing is imported before it is asked for: the names are known without torch.
"""
