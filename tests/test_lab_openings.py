"""Which version a save replaces: the one that its own tab or program has before it."""

from libsafe_nb.jupyter.openings import Client, Openings

TAB, OTHER = Client(("login ",), browser=True), Client(("login auto-x",), browser=True)


def test_two_tabs_with_one_login_that_look_and_save_at_the_same_moment():
    """Both were told of version 1; that one has saved must not make the other's save replace what it stored."""
    openings = Openings()
    for tab in (TAB, OTHER):
        openings.opened(tab, "a", "1")
        openings.looked(tab, "a", "1")
    openings.saved(TAB, "a", "2")

    assert openings.replaces(TAB, "a") == "2"
    assert openings.replaces(OTHER, "a") == "1"


def test_a_save_by_someone_else_right_after_ones_own_is_not_taken_for_it():
    """A Lab asks for the hash after its save and takes it for that of what it has saved."""
    openings = Openings()
    openings.saved(TAB, "a", "mine")

    assert openings.looked(TAB, "a", "theirs") == "mine"
    assert openings.replaces(TAB, "a") == "mine"
    # Before its next save it learns of it; what a person decides then is what counts.
    assert openings.looked(TAB, "a", "theirs") == "theirs"
    assert openings.replaces(TAB, "a") == "theirs"


def test_a_refused_save_is_refused_again_until_the_client_has_looked():
    openings = Openings()
    openings.opened(TAB, "a", "1")
    openings.looked(TAB, "a", "2")
    openings.refused(TAB, "a", "2", ("a.conflict", "c"))

    assert (openings.replaces(TAB, "a"), openings.beside(TAB, "a")) == ("2", ("a.conflict", "c"))
    openings.looked(TAB, "a", "3")
    assert openings.replaces(TAB, "a") == "3"


def test_a_program_is_known_by_its_connection_and_on_a_new_one_by_what_it_says_of_itself():
    openings = Openings()
    first, second = Client(("x", "port 1", "agent")), Client(("y", "port 2", "agent"))
    openings.opened(first, "a", "1")
    openings.opened(second, "a", "1")
    openings.saved(first, "a", "2")

    assert openings.replaces(Client(("z", "port 2", "agent")), "a") == "1"
    assert openings.replaces(Client(("z", "port 3", "agent")), "a") == "2"
    assert openings.replaces(Client(("z", "port 3", "other")), "a") is None


def test_a_moved_or_deleted_folder_takes_what_was_told_of_its_files_with_it():
    openings = Openings()
    for path in ("in/a", "in/b/c", "inside"):
        openings.opened(TAB, path, "1")
    openings.moved("in", "out")

    assert [openings.replaces(TAB, path) for path in ("in/a", "in/b/c", "inside")] == [None, None, "1"]
