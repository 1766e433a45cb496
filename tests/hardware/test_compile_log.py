"""What vai_c_xir prints: read the same from every release, and each known failure explained."""

import pytest

from dpuforge.execute.compile_log import read_compile_log

BANNER = "*" * 50 + "\n* VITIS_AI Compilation - Xilinx Inc.\n" + "*" * 50 + "\n"
MD5 = "0123456789abcdef0123456789abcdef"


def make_log(release: str, target: str) -> str:
    """Write the log of a successful run as that release does (order and wording from recorded logs)."""
    lines = []
    if release == "1.3":
        lines.append('The compiler log will be dumped at "/tmp/vitis-ai-user/log/xcompiler-20210101-000000-42"')
    if release in ("1.3", "1.4"):
        lines.append(f"Target architecture: {target}")
    debug = "null" if release in ("3.0", "3.5") else "function"
    lines += ["Compile mode: dpu", f"Debug mode: {debug}", f"Target architecture: {target}"]
    lines += ["Graph name: ResNet, with op num: 171", "Begin to compile..."]
    lines += ["Total device subgraph number 3, DPU subgraph number 1", "Compile done."]
    lines += ['The meta json is saved to "/workspace/out/meta.json"']
    lines += ['The compiled xmodel is saved to "/workspace/out/net.xmodel"']
    middle = ", and been saved to" if release == "1.3" else ", and has been saved to"
    lines += [f'The compiled xmodel\'s md5sum is {MD5}{middle} "/workspace/out/md5sum.txt"']
    return BANNER + "".join(f"[UNILOG][INFO] {line}\n" for line in lines)


@pytest.mark.parametrize("release", ["1.3", "1.4", "2.0", "2.5", "3.0", "3.5"])
def test_a_successful_log_reads_the_same_in_every_release(release: str) -> None:
    """Target, graph, subgraphs, files and checksum are found whatever the release's wording."""
    report = read_compile_log(make_log(release, "DPUCZDX8G_ISA1_B4096"))
    assert report.ok
    assert (report.target, report.graph, report.operators) == ("DPUCZDX8G_ISA1_B4096", "ResNet", 171)
    assert (report.device_subgraphs, report.dpu_subgraphs) == (3, 1)
    assert (report.xmodel, report.md5) == ("/workspace/out/net.xmodel", MD5)
    assert report.debug_mode == ("null" if release in ("3.0", "3.5") else "function")


def test_colours_and_glog_prefixes_do_not_hide_anything() -> None:
    """A coloured log, and one with glog prefixes as the inspector prints it, read like a plain one."""
    plain = make_log("3.5", "DPUCZDX8G_ISA1_B4096")
    coloured = plain.replace("[UNILOG]", "\x1b[0;32m[UNILOG]").replace("\n", "\x1b[m\n")
    glog = plain.replace("[UNILOG]", "I20230407 00:14:50.378973 13777 compile_pass_manager.cpp:287] [UNILOG]")
    assert read_compile_log(coloured) == read_compile_log(plain) == read_compile_log(glog)


def test_operators_that_the_compiler_removes_are_listed() -> None:
    """The yellow warning about an unchanged pool is no failure, and names the operator."""
    warning = "xir::Op{name = ResNet__pool, type = pool-fix}'s input and output is unchanged, so it will be removed."
    report = read_compile_log(make_log("3.0", "T") + f"[UNILOG][WARNING] {warning}\n")
    assert report.ok
    assert report.removed_operators == ("ResNet__pool",)


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        (
            "[UNILOG][FATAL][TARGET_FACTORY_UNREGISTERED_TARGET][Unregistered target!] Cannot find target with name "
            "DPUCZDX8G_ISA0_B4096_MAX_BG2, valid names are: {DPUCZDX8G_ISA1_B4096,}",
            "DPUCZDX8G_ISA0_B4096_MAX_BG2, which this release does not know",
            "target.vitis_ai",
        ),
        (
            "[UNILOG][FATAL][TARGET_FACTORY_UNREGISTERED_TARGET] Cannot find or create target with "
            "fingerprint=0x1000020f6014406",
            "no DPU of this release has fingerprint 0x1000020f6014406",
            "xdputil query",
        ),
        ("[UNILOG][FATAL][TARGET_FACTORY_INVALID_ARCH][x]", "malformed (INVALID_ARCH)", "arch.json"),
        ("ERROR: NO FRONT END SPECIFIED", "legacy front end", "dpuforge generate"),
        ("[UNILOG][FATAL][XCOM_DATA_OUTRANGE][Data value is out of range!]", "fix position or shift", "calibrate"),
        ("[UNILOG][FATAL][XCOM_OPFACTORY_OP_UNSUPPORTED][x]", "does not know an operator", "dpuforge estimate"),
        ("[UNILOG][FATAL][XCOM_ACGEN_ERROR][x]", "XCOM_ACGEN_ERROR", "dpuforge estimate"),
        ("[UNILOG][FATAL][XCOM_UTIL_INVALID_VALUE][x]", "divided by zero", "batch 1"),
        (
            "CHECK fingerprint fail! model_fingerprint 0x101000016010407 is un-matched with actual dpu_fingerprint "
            "0x101000056010407. Please re-compile xmodel",
            "compiled for 0x101000016010407 but the board's DPU is 0x101000056010407",
            'fingerprint: "0x101000056010407"',
        ),
        ("bash: vai_c_xir: command not found", "not on this machine", "container"),
        ("*** Check failure stack trace: ***", "aborted", "lines before"),
    ],
)
def test_each_known_failure_has_cause_and_remedy(text: str, cause: str, remedy: str) -> None:
    """The line that shows a failure is kept, explained, and followed by what to do."""
    report = read_compile_log(BANNER + text + "\nAborted (core dumped)\n")
    assert not report.ok
    (failure,) = report.failures
    assert failure.line == text
    assert cause in failure.cause
    assert remedy in failure.remedy


HEAD = "[UNILOG][INFO] Target architecture: DPUCZDX8G_ISA1_B4096\n[UNILOG][INFO] Begin to compile...\n"
TAIL = "*** Check failure stack trace: ***\nAborted (core dumped)\n"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "[UNILOG][FATAL][XCOM_FRONTEND_QUANT_ATTR_OUT_OF_RANGE][The shiftbit is out of range.] Invalid "
            "shift_bias(-12) for xir::Op{name = PartsNet__stem, type = conv2d-fix}, where i_pos(6).",
            ("XCOM_FRONTEND_QUANT_ATTR_OUT_OF_RANGE", "PartsNet__stem", "fix position or shift"),
        ),
        (
            "[UNILOG][FATAL][XIR_REMOVE_OP_FAIL][Failed to remove an op!] Cannot remove "
            "xir::Op{name = PartsNet__ln_weight_fix, type = fix} from graph.",
            ("XIR_REMOVE_OP_FAIL", "PartsNet__ln_weight_fix", "others still read it"),
        ),
        (
            "[UNILOG][FATAL][XIR_UNREGISTERED_ATTR][Unregistered attribute!] Attrs doesn't contain attribute data",
            ("XIR_UNREGISTERED_ATTR", "lacks the attribute data", "target.vitis_ai"),
        ),
        (
            "[UNILOG][FATAL][XCOM_A_CODE_OF_TOMORROW][Something!] at xir::Op{name = Net__odd, type = argmax}",
            ("XCOM_A_CODE_OF_TOMORROW", "operator Net__odd of type argmax", "look at Net__odd"),
        ),
        (
            "F0406 10:11:12.1 42 op.cpp:7] [UNILOG][FATAL][XIR_UNKNOWN][x]",
            ("XIR_UNKNOWN", "the compiler stops with XIR_UNKNOWN", "estimate"),
        ),
        (
            "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
            ("bad_alloc", "memory ran out", "--jobs 1"),
        ),
        (
            "terminate called after throwing an instance of 'std::out_of_range'\n  what():  map::at",
            ("std::out_of_range", "died of an exception"),
        ),
        ("compile.sh: line 71: 4242 Segmentation fault      (core dumped) vai_c_xir", ("crashed",)),
        ("compile.sh: line 71: 4242 Killed                  vai_c_xir -x a.xmodel", ("killed", "memory ran out")),
        ("Killed", ("memory ran out",)),
        (
            "vai_c_xir: tiling.cpp:88: int tile(int): Assertion `rows > 0' failed.",
            ("Assertion `rows > 0' failed", "assertion inside the compiler"),
        ),
        ("AssertionError: the memory allocation MUST BE DONE BETTER", ("MUST BE DONE BETTER", "assertion")),
        ("OSError: [Errno 28] No space left on device", ("the disk is full", "/tmp")),
        ("Do you agree to the terms and wish to proceed [y/n]?", ("licence", "by hand")),
    ],
)
def test_every_end_names_its_reason(body: str, words: tuple[str, ...]) -> None:
    """FATAL lines of any code, exceptions, signals, asserts, full disks and licence prompts are told in one line."""
    reason = str(read_compile_log(HEAD + body + "\n" + TAIL).failures[0])
    assert [word for word in words if word not in reason] == []
    assert "Check failure stack trace" not in reason


def test_an_abort_that_something_explains_is_reported_once() -> None:
    """The stack trace after a known error adds no second, vaguer message."""
    text = "[UNILOG][FATAL][XCOM_DATA_OUTRANGE][x]\n*** Check failure stack trace: ***\n"
    assert len(read_compile_log(text).failures) == 1


def test_an_empty_or_unknown_log_is_no_success() -> None:
    """Nothing in the log means not done, without an exception."""
    assert not read_compile_log("").ok
    assert not read_compile_log("hello").ok
