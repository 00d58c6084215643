"""What serves the bytes gives way to the functions that read them."""

import psutil

from libsafe_nb import courtesy


def serving(module, root):
    """The one process of this module that works in the folder of a platform."""
    (found,) = [
        each
        for each in psutil.process_iter(["cmdline"])
        if {module, str(root)} <= set(each.info["cmdline"] or ())
    ]
    return found


def test_the_s3_server_and_the_side_before_it_give_way(platform):
    side = serving("libsafe_nb.local.s3side", platform.root)
    both = [side, *side.children()]

    assert any("mini" in each.cmdline() for each in both)
    assert {each.nice() for each in both} == {courtesy.SERVING}
    # It bears kernels, which are to have the priority of any other.
    assert serving("libsafe_nb.local.server", platform.root).nice() == 0
