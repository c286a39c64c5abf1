"""A process that runs vLLM with real weights, and tells what each request came to.

Run as a program, because vLLM makes processes of its own that begin with the program again. It
reads JSON from the standard input: `model`, `connector` (its configuration), `steps`, and maybe
`options` of the engine. Each step is a request, {"prompt": text}, or {"run": "program"}, whose
end is waited for, or {"reset": true}, which drops vLLM's own cache. What it prints last, after a
mark, is JSON: a list with tokens and figures of each request.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, Final

from vllm import LLM, SamplingParams

MARK: Final = "RESULT OF THE RUN: "


def run(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what each request came to."""
    # On a CPU the last one is a share of the memory of the machine, which has to be free.
    options = {
        "max_model_len": 1024,
        "dtype": "bfloat16",
        "max_num_seqs": 4,
        "gpu_memory_utilization": 0.2,
    } | task.get("options", {})
    connector = task["connector"]
    llm = LLM(model=task["model"], enforce_eager=True, kv_transfer_config=connector, **options)
    results = []
    for step in task["steps"]:
        if step.get("reset"):
            assert llm.reset_prefix_cache()
        elif "run" in step:
            subprocess.run(step["run"], check=True)
        elif "sleep" in step:
            time.sleep(step["sleep"])
        else:
            sampling = SamplingParams(temperature=0, max_tokens=step.get("max_tokens", 16))
            begun = time.monotonic()
            (answer,) = llm.generate([step["prompt"]], sampling, use_tqdm=False)
            seconds = time.monotonic() - begun
            results.append(
                {
                    "tokens": list(answer.outputs[0].token_ids),
                    "prompt_tokens": len(answer.prompt_token_ids),
                    "cached": answer.num_cached_tokens,
                    "seconds": seconds,
                }
            )
    return results


if __name__ == "__main__":
    outcome = run(json.load(sys.stdin))
    print(MARK + json.dumps(outcome), flush=True)
