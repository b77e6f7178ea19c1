// Sends an image to `maskline serve`; writes the masks of its instances and the rendered image.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <httplib.h>
#include <nlohmann/json.hpp>

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr int attempts = 5;   // to reach a busy server
constexpr int max_wait = 60;  // seconds between two of them
constexpr std::int64_t max_pixels = 1 << 30;  // of an image
constexpr std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::string_view usage =
    "usage: client [OPTIONS] IMAGE OUTPUT_FOLDER\n"
    "  --url URL      of the server (default http://127.0.0.1:8080)\n"
    "  --threshold T  lowest score, 0 to 1\n"
    "  --no-image     do not render the image\n"
    "  --timeout S    seconds (default 60)\n"
    "MASKLINE_API_KEY in the environment is sent as the API key.\n";

struct Options {
    std::string url = "http://127.0.0.1:8080";
    std::optional<double> threshold;
    bool render = true;
    double timeout = 60;
    std::string image, folder;
};

struct Usage : std::runtime_error {
    using std::runtime_error::runtime_error;
};

double number(const std::string& text, double low, double high) {
    std::istringstream stream(text);
    double value = 0;
    if (stream >> value && stream.eof() && low <= value && value <= high) return value;
    std::ostringstream message;
    message << "'" << text << "' is not a number from " << low << " to " << high;
    throw Usage(message.str());
}

Options command_line(const std::vector<std::string>& arguments) {
    Options options;
    std::vector<std::string> rest;
    for (auto at = arguments.begin(); at != arguments.end(); ++at) {
        const auto& name = *at;
        const auto value = [&] {
            if (++at == arguments.end()) throw Usage(name + " needs a value");
            return *at;
        };
        if (name == "--url") options.url = value();
        else if (name == "--threshold") options.threshold = number(value(), 0, 1);
        else if (name == "--no-image") options.render = false;
        else if (name == "--timeout") options.timeout = number(value(), 0.001, 86400);
        else if (name.rfind("--", 0) == 0) throw Usage("there is no option " + name);
        else rest.push_back(name);
    }
    if (rest.size() != 2) throw Usage("IMAGE and OUTPUT_FOLDER are needed");
    options.image = rest[0];
    options.folder = rest[1];
    return options;
}

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    // A folder can be opened too.
    if (!file || fs::is_directory(path)) throw std::runtime_error(path + " can't be read");
    return {std::istreambuf_iterator<char>(file), {}};
}

void write(const fs::path& path, const std::string& content) {
    std::ofstream file(path, std::ios::binary);
    file.write(content.data(), static_cast<std::streamsize>(content.size()));
    file.close();
    if (!file) throw std::runtime_error(path.string() + " can't be written");
}

std::string to_base64(const std::string& bytes) {
    std::string text;
    text.reserve((bytes.size() + 2) / 3 * 4);
    for (std::size_t at = 0; at < bytes.size(); at += 3) {
        const auto byte = [&](std::size_t i) -> unsigned {
            return at + i < bytes.size() ? static_cast<unsigned char>(bytes[at + i]) : 0U;
        };
        const unsigned three = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (int shift = 18; shift >= 0; shift -= 6) text += alphabet[three >> shift & 63];
    }
    const std::size_t lacking = (3 - bytes.size() % 3) % 3;
    text.replace(text.size() - lacking, lacking, lacking, '=');
    return text;
}

std::string from_base64(std::string_view text) {
    while (!text.empty() && text.back() == '=') text.remove_suffix(1);
    std::string bytes;
    bytes.reserve(text.size() / 4 * 3 + 2);
    unsigned held = 0;
    int bits = 0;
    for (const char character : text) {
        const auto value = alphabet.find(character);
        if (value == std::string_view::npos) throw std::runtime_error("unexpected answer: the image is not valid Base64");
        held = held << 6 | static_cast<unsigned>(value);
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        bytes += static_cast<char>(held >> bits & 255);
    }
    return bytes;
}

// Seconds to wait, with a default if the header is missing or a date.
int seconds(const std::string& retry_after) {
    if (!std::regex_match(retry_after, std::regex("[0-9]{1,9}"))) return 1;
    return std::min(std::stoi(retry_after), max_wait);
}

// The answer's result, if successful.
json checked(const std::string& url, const httplib::Response& response) {
    const auto answer = json::parse(response.body, nullptr, false);
    const auto status = std::to_string(response.status);
    if (!answer.is_object()) throw std::runtime_error(url + " answered " + status + " without a JSON object");
    if (response.status != 200 || answer.value("errorCode", -1) != 0) {
        const auto message = answer.value("errorMsg", ""), log_id = answer.value("logId", "");
        throw std::runtime_error(status + ": " + message + " (logId " + log_id + ")");
    }
    return answer.at("result");
}

// The result in the server's answer. If it is busy (429, 503), the request is repeated after Retry-After.
json ask(const Options& options, const std::string& body) {
    const auto base = std::regex_replace(options.url, std::regex("/+$"), "");
    std::smatch parts;
    if (!std::regex_match(base, parts, std::regex("(https?://[^/]+)(/.*)?")))
        throw Usage("'" + options.url + "' is not the URL of a server");
    const auto path = parts[2].str() + "/instance-segmentation", url = parts[1].str() + path;
    const auto timeout = std::chrono::milliseconds(std::llround(options.timeout * 1000));
    httplib::Client client(parts[1].str());
    client.set_connection_timeout(timeout);
    client.set_read_timeout(timeout);
    client.set_write_timeout(timeout);
    httplib::Headers headers;
    if (const char* key = std::getenv("MASKLINE_API_KEY"); key && *key)
        headers.emplace("Authorization", std::string("Bearer ") + key);
    for (int attempt = 1;; ++attempt) {
        const auto response = client.Post(path, headers, body, "application/json");
        if (!response)
            throw std::runtime_error("no answer from " + url + " (" + httplib::to_string(response.error()) + ")");
        if ((response->status != 429 && response->status != 503) || attempt == attempts) return checked(url, *response);
        const int wait = seconds(response->get_header_value("Retry-After"));
        std::cerr << "busy (" << response->status << "): again in " << wait << " s\n";
        std::this_thread::sleep_for(std::chrono::seconds(wait));
    }
}

// A mask's pixels, row by row, from COCO's compressed RLE.
//
// Runs of background and foreground in turn, background first, go down the columns. From the fourth on, the difference
// to the run two places earlier is written. A number comes in groups of five bits, lowest first, the last one's highest
// bit its sign; 32 is added where more groups follow, and 48 to make it a character.
std::vector<char> decode_rle(const std::string& counts, std::int64_t rows, std::int64_t cols) {
    std::vector<char> mask(rows * cols);
    std::vector<std::int64_t> runs;
    const std::int64_t total = rows * cols;
    std::int64_t at = 0, value = 0;
    int shift = 0;
    for (const char character : counts) {
        const std::int64_t group = character - 48;
        value += (group & 31) << shift;
        shift += 5;
        if ((group & 32) && shift < 60) continue;
        value -= (group & 16) << (shift - 4);
        if (runs.size() > 2) value += runs[runs.size() - 2];
        if (value < 0 || value > total - at) break;
        for (const auto end = at + value; at < end; ++at) mask[at % rows * cols + at / rows] = runs.size() % 2;
        runs.push_back(value);
        value = shift = 0;
    }
    if (at != total || shift)
        throw std::runtime_error("unexpected answer: RLE does not match " + std::to_string(rows) + " x " +
                                 std::to_string(cols) + " pixels");
    return mask;
}

struct Image {
    std::int64_t height, width;
    std::vector<std::uint16_t> labels;  // row by row
};

// Number the pixels of an instance that are still 0; returns how many pixels its mask has.
std::int64_t place(const json& instance, std::uint16_t number, Image& image) {
    const auto box = instance.at("bbox").get<std::vector<double>>();
    const auto size = instance.at("mask").at("size").get<std::vector<std::int64_t>>();
    // Half to even, as the server does: std::round rounds away from zero.
    const double top = std::nearbyint(box.at(1)), left = std::nearbyint(box.at(0));
    const auto rows = size.at(0), cols = size.at(1);
    if (top < 0 || left < 0 || rows < 0 || cols < 0 || top > image.height - rows || left > image.width - cols)
        throw std::runtime_error("unexpected answer: a mask exceeds the image");
    const auto mask = decode_rle(instance.at("mask").at("rleResult").get<std::string>(), rows, cols);
    const auto first = static_cast<std::int64_t>(top) * image.width + static_cast<std::int64_t>(left);
    for (std::int64_t at = 0; at < rows * cols; ++at) {
        auto& label = image.labels[first + at / cols * image.width + at % cols];
        if (mask[at] && label == 0) label = number;
    }
    return std::count(mask.begin(), mask.end(), 1);
}

// Print the instances, best first, and number their pixels 1, 2, ...
Image label_image(const json& result) {
    const auto size = result.at("size").get<std::vector<std::int32_t>>();
    Image image{size.at(0), size.at(1), {}};
    if (image.height < 0 || image.width < 0 || image.height * image.width > max_pixels)
        throw std::runtime_error("unexpected answer: invalid image size");
    image.labels.resize(image.height * image.width);
    std::uint16_t number = 0;
    for (const auto& instance : result.at("instances")) {
        const auto pixels = place(instance, ++number, image);
        std::printf("%.4f", instance.at("score").get<double>());
        for (const auto& side : instance.at("bbox")) std::printf("\t%.1f", side.get<double>());
        const auto name = instance.at("categoryName").get<std::string>();
        std::printf("\t%lld\t%s\n", static_cast<long long>(pixels), name.c_str());
    }
    return image;
}

// 16 bits a pixel, high byte first.
std::string as_pgm(const Image& image) {
    auto content = "P5\n" + std::to_string(image.width) + " " + std::to_string(image.height) + "\n65535\n";
    for (const auto label : image.labels) {
        content += static_cast<char>(label >> 8);
        content += static_cast<char>(label & 255);
    }
    return content;
}

void run(const Options& options) {
    json request{{"image", to_base64(read(options.image))}, {"visualize", options.render}};
    if (options.threshold) request["threshold"] = *options.threshold;
    const auto result = ask(options, request.dump());
    const auto pgm = as_pgm(label_image(result));
    fs::create_directories(options.folder);
    write(fs::path(options.folder) / "masks.pgm", pgm);
    if (const auto image = result.find("image"); image != result.end() && !image->is_null())
        write(fs::path(options.folder) / "rendered.jpg", from_base64(image->get<std::string>()));
}

int fail(std::string message) {
    std::replace_if(message.begin(), message.end(), [](unsigned char c) { return std::iscntrl(c); }, ' ');
    std::cerr << "error: " << message << "\n";
    return 1;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        run(command_line({argv + 1, argv + argc}));
        return 0;
    } catch (const Usage& fault) {
        std::cerr << "error: " << fault.what() << "\n" << usage;
        return 2;
    } catch (const json::exception& fault) {
        return fail(std::string("unexpected answer: ") + fault.what());
    } catch (const std::exception& fault) {
        return fail(fault.what());
    }
}
