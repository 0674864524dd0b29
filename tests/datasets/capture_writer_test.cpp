#include "datasets/capture_writer.hpp"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>

#include "datasets/error.hpp"
#include "datasets/hdf5.hpp"
#include "gtest/gtest.h"
#include "tests/datasets/capture_files.hpp"

namespace sage2 {
namespace {

using testing::head_values;
using testing::message_of;
using testing::small_cell;
using testing::TempDir;
using testing::write_capture;
using testing::write_cell;

std::size_t files_in(const std::filesystem::path& folder) {
  return static_cast<std::size_t>(
      std::distance(std::filesystem::directory_iterator(folder), std::filesystem::directory_iterator()));
}

TEST(CaptureWriter, ChunksOneHeadByAMultipleOf128Tokens) {
  const TempDir dir;
  CellInfo cell = small_cell();
  cell.shape = {1, 2, 1, 5000, 70, 256};  // 128 tokens of 256 float16: 64 KiB, so 16 of them to the MiB
  write_capture(dir / "a.h5", cell);
  const h5::Handle file = h5::open_file(dir / "a.h5");
  const auto chunk_of = [&](const char* path) {
    const h5::Handle dataset(H5Dopen2(file.get(), path, H5P_DEFAULT));
    const h5::Handle creation(H5Dget_create_plist(dataset.get()));
    std::vector<hsize_t> chunk(4);
    EXPECT_EQ(H5Pget_chunk(creation.get(), 4, chunk.data()), 4);
    return chunk;
  };
  EXPECT_EQ(chunk_of("/layers/000/0000/000/q"), (std::vector<hsize_t>{1, 1, 2048, 256}));
  EXPECT_EQ(chunk_of("/layers/000/0000/000/k"), (std::vector<hsize_t>{1, 1, 70, 256}));
}

TEST(CaptureWriter, AnUnfinishedFileLeavesNothing) {
  const TempDir dir;
  {
    CaptureWriter writer(dir / "a.h5", {"m", "s"});
    write_cell(writer, small_cell());
    EXPECT_EQ(files_in(dir / ""), 1U);  // under its temporary name
    EXPECT_FALSE(std::filesystem::exists(dir / "a.h5"));
  }
  EXPECT_EQ(files_in(dir / ""), 0U);
}

TEST(CaptureWriter, AFileOfThatNameStaysUntilTheNewOneIsWhole) {
  const TempDir dir;
  std::ofstream(dir / "a.h5") << "before";
  CaptureWriter writer(dir / "a.h5", {"m", "s"});
  write_cell(writer, small_cell());
  EXPECT_EQ(std::filesystem::file_size(dir / "a.h5"), 6U);
  writer.finish();
  EXPECT_EQ(CaptureReader(dir / "a.h5").cells().size(), 1U);
  EXPECT_EQ(files_in(dir / ""), 1U);
}

TEST(CaptureWriter, SaysWhatDoesNotFit) {
  const TempDir dir;
  const CellInfo cell = small_cell();
  CaptureWriter writer(dir / "a.h5", {"m", "s"});
  writer.begin_cell(cell);
  const Matrix q = head_values(cell.shape, TensorName::q, 0, 0);
  EXPECT_NE(message_of<UsageError>([&] { writer.write_head(TensorName::k, 0, 0, q); }).find("does not fit"),
            std::string::npos);
  EXPECT_NE(message_of<UsageError>([&] { writer.write_head(TensorName::q, 0, 4, q); }), "");
  writer.write_head(TensorName::q, 0, 0, q);
  EXPECT_NE(message_of<UsageError>([&] { writer.finish(); }).find("head 1 of q"), std::string::npos);
  CaptureWriter twice(dir / "b.h5", {"m", "s"});
  write_cell(twice, cell);
  EXPECT_NE(message_of<DataError>([&] { twice.begin_cell(cell); }).find("already holds group '/layers/000/0000/000'"),
            std::string::npos);
}

TEST(CaptureWriter, SaysWhyAFileCannotBeCreated) {
  const TempDir dir;
  const std::string message = message_of<DataError>([&] { const CaptureWriter w(dir / "no" / "a.h5", {"m", "s"}); });
  EXPECT_NE(message.find("no/a.h5' cannot be written: No such file or directory"), std::string::npos) << message;
}

// A limit on the size of files stands for a disk that is full: the same call fails at the same place. In a process of
// its own, since the limit holds for all files of a process; it reports by a pipe and must end without a crash.
TEST(CaptureWriter, AFullDiskGivesOneSentenceAndLeavesNoFile) {
  for (const int gzip : {0, 1}) {
    const TempDir dir;
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const rlimit limit{256 * 1024, 256 * 1024};
      setrlimit(RLIMIT_FSIZE, &limit);
      static_cast<void>(std::signal(SIGXFSZ, SIG_IGN));
      CellInfo cell = small_cell();
      cell.shape = {1, 8, 8, 1024, 1024, 128};
      const std::string message = message_of<DataError>([&] { write_capture(dir / "a.h5", cell, gzip); });
      const bool sent = write(ends[1], message.data(), message.size()) == static_cast<ssize_t>(message.size());
      std::exit(sent ? 0 : 1);  // NOLINT(concurrency-mt-unsafe): with the exit handlers, of HDF5 too
    }
    close(ends[1]);
    std::string message(4096, '\0');
    message.resize(static_cast<std::size_t>(std::max<ssize_t>(read(ends[0], message.data(), message.size()), 0)));
    close(ends[0]);
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
    EXPECT_EQ(WEXITSTATUS(status), 0);
    EXPECT_NE(message.find("a.h5' cannot be written: File too large"), std::string::npos) << message;
    EXPECT_EQ(files_in(dir / ""), 0U);
  }
}

}  // namespace
}  // namespace sage2
