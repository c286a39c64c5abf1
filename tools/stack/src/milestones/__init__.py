"""The stack tool: milestones, each proved by its gates.

A large change is a row of small milestones, described in a manifest (`docs/stack/*.toml`). This
package says how far each one is, runs its gates where nothing else can help them, keeps the
records of that, moves branches after their parent moved, and writes the status pages.

The rooms, lowest first; each knows only those above it in this list:

* `errors`, `lines`: what is wrong, and on which line;
* `settings`: what the tool has to know of a repository;
* `manifest`: what a stack is;
* `git`: the repository, through the git command;
* `records`, `environment`: evidence of one run of gates, and what it depends on;
* `signing`: signatures of records;
* `kept`: what gates have written, kept with their records;
* `order`: which record is newer than another;
* `reuse`: gates that need not run again;
* `journal`: what the tool did to refs; `conflicts`: what a restack could not put together;
* `changes`: what a milestone changes;
* `evidence`: where records are kept, and which of them count;
* `facts`: what git says of each milestone; `forks`: where a branch left its parent;
* `status`: the state of each milestone, computed from all of the above;
* `forge`, `github`, `bare`, `forges`: adapters of forges, and the choice among them;
* `gaterun`, `verify`: running gates in worktrees; `attest`: records of gates that ran elsewhere;
* `journal`, `restack`, `replay`, `undo`, `land`: moving branches so that nothing is lost;
* `edits`, `handover`: what is written into the manifests, such as fork points;
* `reshape`: a milestone between others; `blame`, `absorb`: a fix-up where it belongs;
* `regions`, `sections`, `pages`, `render`: the pages of `docs/stack`;
* `requests`, `submit`, `sync`: pull requests of a stack, and what comes from the remote;
* `walk`: a stack as a tree, and up and down in it;
* `here`, `show`, `watch`, `cli_forge`, `cli_shape`, `cli`: the command line.
"""

from __future__ import annotations
