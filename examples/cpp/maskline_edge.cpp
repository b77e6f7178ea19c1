// Instance segmentation on edge devices: an exported maskline model and OpenVINO, without other dependencies.
//
//   maskline_edge MODEL IMAGE.ppm [OUTPUT.ppm]
//
// MODEL is inference.xml (`maskline export --format openvino`) or inference.onnx of a Mask-RT-DETR or PP-YOLOE_seg. A
// line is printed for each instance, the best first: score x1 y1 x2 y2 pixels label, with tabs between, the box in
// pixels of the image. OUTPUT is the image with masks in colour. To read other formats than PPM, replace read_ppm.

#include <openvino/openvino.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

struct Image {  // RGB, row by row from the top
    int height = 0, width = 0;
    std::vector<uint8_t> pixels;
    size_t at(int y, int x) const { return 3 * (size_t(y) * width + x); }  // where a pixel begins
};

struct Record {  // the metadata of a model file, as far as needed here
    std::vector<std::string> labels;
    int height, width, pad_stride;
    bool keep_ratio, cubic;
    bool via_input;  // masks are enlarged to the input's pixels, cut at the box, and enlarged to the image's
    float threshold;
};

struct Instance {
    float score;
    std::array<float, 4> box;  // x1 y1 x2 y2
    int64_t label;
    int top, left, height, width;  // of the mask, in pixels of the image
    std::vector<uint8_t> mask;     // 0 or 1
};

Image read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " can't be opened");
    std::string magic, comment;
    long long width = 0, height = 0, highest = 0;
    file >> magic;
    for (long long* value : {&width, &height, &highest}) {
        while ((file >> std::ws).peek() == '#') std::getline(file, comment);
        file >> *value;
    }
    file.get();
    if (!file || magic != "P6" || width < 1 || height < 1 || highest != 255)
        throw std::runtime_error(path + " is not an 8-bit PPM file (P6): create one with `convert IMAGE NAME.ppm`");
    const auto start = file.tellg();
    const auto left = file.seekg(0, std::ios::end).tellg() - start;
    if (height > left / 3 / width) throw std::runtime_error(path + " is cut short");
    Image image{int(height), int(width), std::vector<uint8_t>(size_t(3) * height * width)};
    file.seekg(start).read(reinterpret_cast<char*>(image.pixels.data()), std::streamsize(image.pixels.size()));
    return image;
}

void write_ppm(const std::string& path, const Image& image) {
    std::ofstream file(path, std::ios::binary);
    file << "P6\n" << image.width << " " << image.height << "\n255\n";
    file.write(reinterpret_cast<const char*>(image.pixels.data()), std::streamsize(image.pixels.size()));
    if (!file) throw std::runtime_error(path + " can't be written");
}

// The record is JSON of known keys, each of which is there once.
size_t value_at(const std::string& json, const std::string& key) {
    const size_t at = json.find("\"" + key + "\": ");
    if (at == std::string::npos) throw std::runtime_error("the model's record has no " + key + ": export it again");
    return at + key.size() + 4;
}

std::string text_at(const std::string& json, size_t& at) {  // `at` goes from the first quote behind the last
    std::string text;
    for (++at; json.at(at) != '"'; ++at) {
        if (json[at] == '\\') ++at;  // of the escapes, only those of quotes and backslashes are expected in names
        text += json.at(at);
    }
    return ++at, text;
}

// OpenVINO itself would try all its formats on a file that is not a model, and print the error of each.
std::shared_ptr<ov::Model> read_model(ov::Core& core, const std::string& path) try {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error(path + " can't be opened");
    std::string head(64, ' '), suffix = path.substr(std::min(path.rfind('.'), path.size()));
    file.read(&head[0], 64);
    if (!(suffix == ".onnx" && head[0] == 8) && !(suffix == ".xml" && head.find("<net ") != std::string::npos))
        throw std::runtime_error(path + " is not a model: expected inference.onnx or inference.xml of `maskline export`");
    return core.read_model(path);
} catch (const ov::Exception&) {
    throw std::runtime_error(path + " can't be read: the file, or the .bin file next to it, is truncated or missing");
}

Record read_record(const ov::Model& model) {
    if (!model.has_rt_info("maskline") && !model.has_rt_info("framework", "maskline"))
        throw std::runtime_error("the model has no record: make it with `maskline export`");
    const std::string json = model.has_rt_info("maskline") ? model.get_rt_info<std::string>("maskline")
                                                           : model.get_rt_info<std::string>("framework", "maskline");
    const auto number = [&](const char* key) { return std::stod(json.substr(value_at(json, key))); };
    const auto text = [&](const char* key) { size_t at = value_at(json, key); return text_at(json, at); };
    const auto flag = [&](const char* key) { return json.compare(value_at(json, key), 4, "true") == 0; };
    const std::string interpolation = text("interpolation");
    bool known = interpolation == "linear" || interpolation == "cubic", via_input;
    if (json.find("\"mask_layout\": ") != std::string::npos) {
        via_input = flag("via_input");
        known = known && text("over") == "input" && !flag("boxes_from_masks");
    } else {  // records up to version 2
        const std::string frame = text("mask_frame");
        via_input = frame == "twice";
        known = known && (frame == "image" || frame == "within" || via_input);
    }
    if (flag("float_resize") || !known)
        throw std::runtime_error(text("model") + " can't be run by this program, only Mask-RT-DETR and PP-YOLOE_seg");
    Record record{{}, int(number("height")), int(number("width")), int(number("pad_stride")),
                  flag("keep_ratio"), interpolation == "cubic", via_input, float(number("threshold"))};
    for (size_t at = value_at(json, "labels") + 1; json.at(at) != ']'; at += json.at(at) == ',' ? 2 : 0)
        record.labels.push_back(text_at(json, at));
    return record;
}

struct Tap {  // where a value comes from along one axis: up to four neighbours and their weights
    std::array<int, 4> from;
    std::array<double, 4> weight;  // whole 2048ths if linear
};

std::vector<Tap> taps(int in, int out, bool cubic) {
    std::vector<Tap> all(out);
    for (int i = 0; i < out; ++i) {
        const double centre = (i + 0.5) * (double(in) / out) - 0.5;
        const int before = int(std::floor(centre));
        const double t = centre - before, a = -0.75;  // the sharpness of OpenCV's cubic
        const auto near = [a](double x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
        const auto far = [a](double x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
        const std::array<double, 4> weight = {far(1 + t), near(t), near(1 - t), far(2 - t)}, linear = {0, 1 - t, t, 0};
        for (int k = 0; k < 4; ++k) {
            all[i].from[k] = std::clamp(before - 1 + k, 0, in - 1);
            all[i].weight[k] = cubic ? weight[k] : std::nearbyint(2048 * linear[k]);
        }
    }
    return all;
}

// As OpenCV does it, linear in whole numbers: a network notices if all pixels are a little brighter.
Image resize(const Image& in, int height, int width, bool cubic) {
    const auto rows = taps(in.height, height, cubic), columns = taps(in.width, width, cubic);
    const size_t line = size_t(3) * width;
    std::vector<double> across(line * in.height, 0);
    for (int y = 0; y < in.height; ++y)
        for (size_t i = 0; i < line; ++i)
            for (int k = 0; k < 4; ++k)
                across[y * line + i] += columns[i / 3].weight[k] * in.pixels[in.at(y, columns[i / 3].from[k]) + i % 3];
    Image out{height, width, std::vector<uint8_t>(line * height)};
    for (int y = 0; y < height; ++y)
        for (size_t i = 0; i < line; ++i) {
            double sum = 0;
            for (int k = 0; k < 4; ++k) {
                const double weight = rows[y].weight[k], value = across[rows[y].from[k] * line + i];
                sum += cubic ? weight * value : double(int64_t(weight) * (int64_t(value) >> 4) >> 16);
            }
            const double rounded = cubic ? std::nearbyint(sum) : double((int64_t(sum) + 2) >> 2);
            out.pixels[y * line + i] = uint8_t(std::clamp(rounded, 0.0, 255.0));
        }
    return out;
}

Image resized(const Image& image, const Record& record) {
    double ratio_y = double(record.height) / image.height, ratio_x = double(record.width) / image.width;
    if (record.keep_ratio) {
        const auto [low, high] = std::minmax(record.height, record.width);
        const auto [short_side, long_side] = std::minmax(image.height, image.width);
        ratio_y = ratio_x = std::min(double(low) / short_side, double(high) / long_side);
    }
    const auto side = [](double pixels) { return std::max(int(std::nearbyint(pixels)), 1); };
    return resize(image, side(image.height * ratio_y), side(image.width * ratio_x), record.cubic);
}

ov::Tensor to_input(const Image& image, int stride) {  // zeros right and below, to a multiple of `stride`
    const auto padded = [n = std::max(stride, 1)](int side) { return (side + n - 1) / n * n; };
    const size_t height = padded(image.height), width = padded(image.width), row = size_t(3) * image.width;
    ov::Tensor input(ov::element::u8, {1, height, width, 3});
    std::fill_n(input.data<uint8_t>(), input.get_size(), uint8_t(0));
    for (int y = 0; y < image.height; ++y)
        std::copy_n(&image.pixels[row * y], row, input.data<uint8_t>() + 3 * width * y);
    return input;
}

// A grid's value at a place between its cells; beyond the border the border's values go on.
template <class Cell> float between(const Cell& cell, int rows, int columns, double row, double column) {
    const int v = int(std::floor(row)), h = int(std::floor(column));
    const float share_v = float(row - v), share_h = float(column - h);
    const auto at = [&](int i, int j) { return cell(std::clamp(i, 0, rows - 1), std::clamp(j, 0, columns - 1)); };
    const float upper = at(v, h) * (1 - share_h) + at(v, h + 1) * share_h;
    const float lower = at(v + 1, h) * (1 - share_h) + at(v + 1, h + 1) * share_h;
    return upper * (1 - share_v) + lower * share_v;
}

// A pixel is foreground where the grid, interpolated at the pixel's centre, is positive. `step`: cells for a pixel.
template <class Cell>
void fill_mask(Instance& found, const Cell& cell, int rows, int columns, double step_y, double step_x) {
    for (int y = 0; y < found.height; ++y)
        for (int x = 0; x < found.width; ++x)
            found.mask[size_t(y) * found.width + x] = between(cell, rows, columns, (found.top + y + 0.5) * step_y - 0.5,
                                                              (found.left + x + 0.5) * step_x - 0.5) > 0;
}

std::vector<Instance> find(ov::CompiledModel& model, const Record& record, const Image& image) {
    const Image small = resized(image, record);
    const ov::Tensor input = to_input(small, record.pad_stride);
    ov::InferRequest request = model.create_infer_request();
    request.set_input_tensor(input);
    request.infer();
    const ov::Tensor masks = request.get_tensor("masks");
    const float* boxes = request.get_tensor("boxes").data<float>();
    const float* scores = request.get_tensor("scores").data<float>();
    const int64_t* labels = request.get_tensor("labels").data<int64_t>();
    const int count = int(masks.get_shape()[1]), rows = int(masks.get_shape()[2]), columns = int(masks.get_shape()[3]);
    const double scale_y = double(image.height) / small.height, scale_x = double(image.width) / small.width;
    const int height = int(input.get_shape()[1]), width = int(input.get_shape()[2]);
    const double step_y = rows / double(height), step_x = columns / double(width);  // for a pixel of the input
    std::vector<Instance> found;
    for (int i = 0; i < count; ++i) {
        if (!(scores[i] > record.threshold)) continue;
        Instance one{scores[i], {}, labels[i], 0, 0, 0, 0, {}};
        for (int k = 0; k < 4; ++k)
            one.box[k] = std::clamp(boxes[4 * i + k] * float(k % 2 ? scale_y : scale_x), 0.0f,
                                    float(k % 2 ? image.height : image.width));
        if (!(one.box[2] > one.box[0] && one.box[3] > one.box[1])) continue;
        const auto edge = [&](int k) { return int(std::nearbyint(one.box[k])); };  // half to even
        one.left = std::min(edge(0), image.width - 1), one.top = std::min(edge(1), image.height - 1);
        one.width = std::max(edge(2), one.left + 1) - one.left, one.height = std::max(edge(3), one.top + 1) - one.top;
        one.mask.resize(size_t(one.height) * one.width);
        const float *grid = masks.data<float>() + size_t(i) * rows * columns, *box = boxes + 4 * i;
        const auto cell = [&](int y, int x) { return grid[y * columns + x]; };
        const auto pixel = [&](int y, int x) {
            const bool inside = box[0] <= x && x < box[2] && box[1] <= y && y < box[3];
            return inside ? between(cell, rows, columns, (y + 0.5) * step_y - 0.5, (x + 0.5) * step_x - 0.5) : -0.5f;
        };
        if (record.via_input) fill_mask(one, pixel, height, width, 1 / scale_y, 1 / scale_x);
        else fill_mask(one, cell, rows, columns, step_y / scale_y, step_x / scale_x);
        found.push_back(std::move(one));
    }
    return found;
}

void paint(Image& image, const std::vector<Instance>& found) {
    constexpr uint8_t colours[][3] = {{230, 60, 60}, {60, 160, 230}, {60, 190, 90}, {240, 170, 40}, {170, 90, 220}};
    for (size_t i = 0; i < found.size(); ++i)
        for (int y = 0; y < found[i].height; ++y)
            for (int x = 0; x < found[i].width; ++x) {
                uint8_t* pixel = &image.pixels[image.at(found[i].top + y, found[i].left + x)];
                if (found[i].mask[size_t(y) * found[i].width + x])
                    for (int c = 0; c < 3; ++c) pixel[c] = uint8_t((pixel[c] + colours[i % 5][c]) / 2);
            }
}

int main(int argc, char** argv) try {
    if (argc < 3 || argc > 4) return std::cerr << "usage: maskline_edge MODEL IMAGE.ppm [OUTPUT.ppm]\n", 2;
    ov::Core core;
    const auto network = read_model(core, argv[1]);
    const Record record = read_record(*network);
    auto model = core.compile_model(network, "CPU", ov::hint::inference_precision(ov::element::f32));
    Image image = read_ppm(argv[2]);
    const auto found = find(model, record, image);
    for (const Instance& one : found)
        std::printf("%.6f\t%.3f\t%.3f\t%.3f\t%.3f\t%d\t%s\n", one.score, one.box[0], one.box[1], one.box[2], one.box[3],
                    int(std::count(one.mask.begin(), one.mask.end(), 1)), record.labels.at(one.label).c_str());
    if (argc == 4) paint(image, found), write_ppm(argv[3], image);
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
