from fm3d_core.errors import FM3DError, MemoryShortageError, Stopped, StorageError, VolumeError


def test_an_error_is_one_line_with_file_problem_and_remedy() -> None:
    error = VolumeError("is truncated.", path="/data/a.nii.gz", remedy="Copy it\nagain.")
    assert str(error) == "/data/a.nii.gz: is truncated. Copy it again."


def test_every_error_has_an_exit_code_and_an_http_status_of_a_users_mistake() -> None:
    for kind in FM3DError.__subclasses__():
        # a pretraining run that was asked to stop is no mistake: 75 says "try again later"
        assert kind.exit_code == (75 if kind.__name__ == "RunStopped" else 2)
        if kind.__module__.startswith("fm3d_core"):  # others may say that a third machine failed (502)
            assert 400 <= kind.http_status < 500 or kind in (StorageError, MemoryShortageError)


def test_a_cancelled_call_says_that_nothing_changed() -> None:
    assert str(Stopped("Training")).startswith("Training was cancelled. Nothing was changed")


def test_an_error_comes_back_from_another_process_as_it_was() -> None:
    import pickle

    for error in (VolumeError("is empty", path="a.nii", remedy="Copy it again"), Stopped("The scan")):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
        assert type(again) is type(error) and str(again) == str(error) and again.remedy == error.remedy
