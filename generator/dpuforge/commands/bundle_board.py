"""The command that assembles what is copied to a board: bundle."""

from __future__ import annotations

from dpuforge.commands.on_spec import Boards, Keep, Overwrite, Spec, choose_edits


def bundle(spec: Spec, board: Boards = None, overwrite: Overwrite = False, keep: Keep = False) -> None:
    """Assemble build/<project>/bundle/<BOARD>/, a folder that stands alone for copying to the board.

    Example: dpuforge bundle spec/quickstart.yaml --board KV260

    It holds the application, the board's data, the compiled network and the class names; its README.md says what to do
    on the board. The network has to be compiled: the compile stage does that and ends with the same folder. Exit code 3
    where it is not, and which command compiles it.
    """
    from dpuforge import pipeline
    from dpuforge.execute.assemble import assemble_bundle
    from dpuforge.execute.run_stages import Folders

    edits = choose_edits(overwrite, keep)
    job = pipeline.load(spec)
    others = job.other_boards(tuple(board or ()))
    pipeline.write(job, pipeline.render(pipeline.plan(job)), edits=edits)
    folders = Folders(job.root, job.generated(), job.build)
    for target in job.targets:
        if target.board not in others:
            print(assemble_bundle(folders, target.board))
