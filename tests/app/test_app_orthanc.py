"""The server in front of a real DICOMweb archive: Debian's Orthanc with its DICOMweb plugin, on this machine only."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from served import form, get, infer, reason, train, wait_for

from fm3d_core.cli.server_process import ServerProcess
from fm3d_core.volumes import read_label, read_volume

pytestmark = pytest.mark.slow
PATIENT = "Doe^Jane"
PLUGINS = [Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"), *Path("/usr/lib").glob("**/libOrthancDicomWeb.so")]
STRUCTURES = ("ellipsoid", "tube")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A running Orthanc: its DICOMweb address."""
    program = shutil.which("Orthanc") or shutil.which("orthanc") or "/usr/sbin/Orthanc"
    plugin = next((path for path in PLUGINS if path.exists()), None)
    if not Path(program).is_file() or plugin is None:
        pytest.skip("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
    folder = tmp_path_factory.mktemp("orthanc")
    ports = [_free_port(), _free_port()]
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugin)],
        "HttpPort": ports[0],
        "DicomPort": ports[1],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    log = (folder / "log").open("wb")
    process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{ports[0]}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(f"{address}/dicom-web/series"):
            assert time.monotonic() < deadline and process.poll() is None, (folder / "log").read_text()[-2000:]
            time.sleep(0.3)
        yield address
    finally:
        process.terminate()
        process.wait(20)
        log.close()


@pytest.fixture(scope="module")
def series(archive, synthetic_cases, tmp_path_factory):
    """The synthetic cases as CT series of one named patient each; their UIDs."""
    uids = []
    for number, case in enumerate(synthetic_cases):
        uid = generate_uid()
        for instance in slices(case, uid, number):
            path = tmp_path_factory.mktemp("slice") / "slice.dcm"
            instance.save_as(path, write_like_original=False)
            request = urllib.request.Request(f"{archive}/instances", path.read_bytes(), method="POST")
            assert urllib.request.urlopen(request, timeout=20).status == 200
        uids.append(str(uid))
    return uids


def slices(case, series_uid, number):
    """A volume as DICOM slices, axis by axis where it lies."""
    volume = read_volume(case.image)
    study, frame = generate_uid(), generate_uid()
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    steps = np.linalg.norm(lps[:3, :3], axis=0)
    array = np.rint(volume.array).astype(np.int16)
    for k in range(array.shape[2]):
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = PATIENT, f"ID{number}", "19480311"
        dataset.PatientSex, dataset.StudyID, dataset.AccessionNumber = "F", "1", ""
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series_uid, frame
        dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = "20260101"
        dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "CT", 1, k + 1
        dataset.ReferringPhysicianName, dataset.Manufacturer, dataset.SeriesDescription = "", "FM3D", "synthetic"
        dataset.ImagePositionPatient = [float(f"{x:.6f}") for x in (lps @ [0, 0, k, 1])[:3]]
        directions = (lps[:3, 0] / steps[0], lps[:3, 1] / steps[1])
        dataset.ImageOrientationPatient = [float(x) for direction in directions for x in direction]
        dataset.PixelSpacing = [float(steps[1]), float(steps[0])]
        dataset.SliceThickness = float(steps[2])
        dataset.Columns, dataset.Rows = array.shape[0], array.shape[1]
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        dataset.PixelData = array[:, :, k].T.tobytes()
        yield dataset


def label_for(server, uid, case, tmp_path):
    """The true label of a case on the grid of the server's copy of its series."""
    from fm3d_core.volumes import write_label

    copy = tmp_path / "copy.nii.gz"
    with urllib.request.urlopen(f"{server.address}/datastore/image?image={uid}", timeout=60) as answer:
        copy.write_bytes(answer.read())
    volume, truth = read_volume(copy), read_label(case.label)
    assert volume.shape == truth.shape and np.allclose(volume.affine, truth.affine, atol=1e-3)
    return write_label(tmp_path / "label.nii.gz", truth.array, like=volume)


def submit_label(server, uid, label):
    from served import ask

    info = [{"name": name, "idx": value} for value, name in enumerate(STRUCTURES, start=1)]
    fields = form({"params": json.dumps({"label_info": info})}, ("label", "label.nii.gz", label.read_bytes()))
    status, content = ask(server, "PUT", f"/datastore/label?image={uid}", *fields)
    assert status == 200, content


def test_series_are_offered_segmented_labelled_and_learned_from(archive, series, synthetic_cases, tmp_path):
    with ServerProcess(f"{archive}/dicom-web", tmp_path / "work", labels=STRUCTURES) as server:
        status = get(server, "/datastore/")
        assert (status["total"], status["completed"]) == (3, 0)
        listed = get(server, "/datastore/?output=all")["objects"]
        assert set(listed) == set(series) and PATIENT not in json.dumps(listed) and "ID0" not in json.dumps(listed)
        assert get(server, "/activelearning/first", "POST", {})["id"] == min(series)

        status, params, content = infer(server, "segmentation", series[0], version="untrained")
        assert status == 200 and content, params
        for uid, case in zip(series[:2], synthetic_cases, strict=False):
            submit_label(server, uid, label_for(server, uid, case, tmp_path))
            sent = get(server, f"/datastore/label/info?label={uid}&tag=final")["dicom_seg"]
            assert not sent.startswith("not in"), sent
        told = train(server, steps=3, seed=0)
        assert told["state"] == "done", told
        assert get(server, "/adapters/")["versions"][0]["cases"] == sorted(series[:2])
        assert reason(server, "POST", "/infer/segmentation?image=1.2.3", *form({"params": "{}"}))[0] == 404
        written = [path for path in server.workspace.rglob("*") if path.is_file() and path.suffix in (".log", ".json")]
        assert written and not [path for path in written if PATIENT in path.read_text(errors="replace")]

    found = json.loads(urllib.request.urlopen(f"{archive}/dicom-web/series?Modality=SEG", timeout=20).read())
    assert len(found) == 2


def test_a_new_server_takes_the_segmentations_that_the_archive_has(archive, series, synthetic_cases, tmp_path):
    with ServerProcess(f"{archive}/dicom-web", tmp_path / "work") as server:
        assert get(server, "/datastore/")["completed"] == 2
        for uid, case in zip(series[:2], synthetic_cases, strict=False):
            with urllib.request.urlopen(
                f"{server.address}/datastore/label?label={uid}&tag=final", timeout=60
            ) as answer:
                (tmp_path / "back.nii.gz").write_bytes(answer.read())
            back, truth = read_label(tmp_path / "back.nii.gz").array, read_label(case.label).array
            assert np.array_equal(back, truth)
        task = get(server, "/train/segmentation", "POST", {"steps": 2, "seed": 0})
        told = wait_for(server, task["run_id"])
        assert told["state"] == "done" and told["labels"] == list(STRUCTURES), told


def test_an_archive_that_is_not_there_is_said_and_does_not_end_the_server(tmp_path):
    with ServerProcess(f"http://127.0.0.1:{_free_port()}/dicom-web", tmp_path / "work", labels=STRUCTURES) as server:
        assert get(server, "/datastore/")["total"] == 0
        assert "not renewed" in (server.workspace / "app" / "logs" / "app.log").read_text()


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _answers(url):
    try:
        return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError:
        return False
