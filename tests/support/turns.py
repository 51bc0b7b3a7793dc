"""Running a loop by the turn, for tests that say what runs in which turn. No test lives here."""


def turn(loop):
    """One turn, which ends although nothing is left to do."""
    loop.stop()
    loop.run_forever()


def turn_until(loop, condition):
    """Turns until `condition()` holds. For what takes the loop an unspecified, bounded number of them."""
    for _ in range(100):
        if condition():
            return
        turn(loop)
    raise AssertionError("the condition does not hold after 100 turns")
